// Package conformance runs containerd's own suite for content stores against a server, through
// containerd's own client. SOCKET says where it listens, POLICY whether its store is "shared" or "isolated".
package conformance

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/content/testsuite"
	"github.com/containerd/containerd/leases"
	"github.com/containerd/containerd/namespaces"
)

var made uint64

// wrap gives each test a namespace of its own, and the lease that holds what it writes.
func wrap(client *containerd.Client) testsuite.ContextWrapper {
	return func(ctx context.Context) (context.Context, func(context.Context) error, error) {
		ctx = namespaces.WithNamespace(ctx, fmt.Sprintf("suite-%d", atomic.AddUint64(&made, 1)))
		lease, err := client.LeasesService().Create(ctx, leases.WithRandomID())
		if err != nil {
			return nil, nil, err
		}
		return leases.WithLease(ctx, lease.ID), func(ctx context.Context) error {
			return client.LeasesService().Delete(ctx, lease)
		}, nil
	}
}

func TestContent(t *testing.T) {
	client, err := containerd.New(os.Getenv("SOCKET"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	store := func(ctx context.Context, _ string) (context.Context, content.Store, func() error, error) {
		return testsuite.SetContextWrapper(ctx, wrap(client)), client.ContentStore(), func() error { return nil }, nil
	}
	testsuite.ContentSuite(t, "served", store)
	switch policy := os.Getenv("POLICY"); policy {
	case "shared":
		testsuite.ContentCrossNSSharedSuite(t, "served", store)
	case "isolated":
		testsuite.ContentCrossNSIsolatedSuite(t, "served", store)
	default:
		t.Fatalf("no such policy: %q", policy)
	}
}
