"""What the options of `ingest` mean together."""

from __future__ import annotations

from collections.abc import Sequence

from imgtool.cli.words import digest_or_none, pairs, read_names
from imgtool.digest import new_hasher
from imgtool.errors import InvalidArgument
from imgtool.names import check_labels, check_name, check_ref
from imgtool.oci import media, platforms
from imgtool.ops.staging import Wanted


def words_of(words: Sequence[str], files0_from: str | None) -> list[str]:
    """The sources named as arguments, or in the file that `--files0-from` names.

    Raises:
        InvalidArgument: there are none, both are given, or stdin is asked for twice.
    """
    if files0_from is not None:
        if words:
            raise InvalidArgument("sources as arguments and --files0-from exclude each other")
        found = read_names(files0_from, zero=True)
        if files0_from == "-" and "-" in found:
            raise InvalidArgument("stdin cannot be a source and the list of sources")
        return found
    if not words:
        raise InvalidArgument("no source is given", hint="- is stdin")
    if list(words).count("-") > 1:
        raise InvalidArgument("stdin is given as a source more than once")
    return list(words)


def wanted_of(
    *,
    words: Sequence[str],
    names: Sequence[str],
    labels: Sequence[str],
    media_type: str,
    expected_digest: str | None,
    expected_size: int | None,
    algorithm: str,
    ref: str | None,
    lease: str | None,
    platform: str | None,
    if_absent: bool,
    replace: bool,
) -> Wanted:
    """The options, checked before anything is read.

    Raises:
        InvalidArgument: one is malformed, or is for one source where several are given.
    """
    for option, given in (
        ("--name", names),
        ("--ref", ref),
        ("--expected-digest", expected_digest),
        ("--expected-size", expected_size is not None),
    ):
        if given and len(words) > 1:
            raise InvalidArgument(f"{option} is for one source, not for {len(words)}")
    if if_absent and replace:
        raise InvalidArgument("--if-absent and --replace exclude each other")
    for name in names:
        check_name(name)
    new_hasher(algorithm)
    label_map = pairs(labels)
    check_labels(label_map)
    return Wanted(
        names=names,
        labels=label_map,
        media_type=media.check(media_type, "--media-type"),
        expected_digest=digest_or_none(expected_digest),
        expected_size=expected_size,
        algorithm=algorithm,
        ref=None if ref is None else check_ref(ref),
        lease=lease,
        platform=None if platform is None else platforms.parse(platform),
        if_absent=if_absent,
        replace=replace,
    )
