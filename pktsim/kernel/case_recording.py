"""Recorded cases against ours: the first difference of each, field by field.

Where Linux is random the recording says so (``random`` on a frame, null in a conntrack entry): just these fields are
set aside, and what was drawn is checked against the range it must lie in.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final

from pktsim.errors import PktsimError, RecordingError
from pktsim.kernel.case import CaseRun, StepResult, tuple_sort_key, write_fields
from pktsim.netfilter.ruleset import Family
from pktsim.wire.addr import ip_to_text
from pktsim.wire.fields import FieldWriter, dissect
from pktsim.wire.summary import summary

_FLOW_LABEL: Final = 0xFFFFF


def read_cases(path: Path) -> Iterator[dict[str, Any]]:
    """The cases in a ``.json`` file or, one per line, in a ``.jsonl`` or ``.jsonl.gz`` file.

    Raises:
        RecordingError: It cannot be read, or is not of the format.
    """
    try:
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
        lines = text.splitlines() if ".jsonl" in path.name else [text]
        for number, line in enumerate(lines, start=1):
            case = json.loads(line)
            if not isinstance(case, dict) or not {"interfaces", "steps"} <= case.keys():
                raise RecordingError("not a case: it needs interfaces and steps", file=str(path), line=number)
            yield case
    except (OSError, ValueError, EOFError, zlib.error, RecursionError) as error:
        raise RecordingError(f"cannot be read as cases: {error}", file=str(path)) from None


def verify_case(case: Mapping[str, Any]) -> str:
    """Run a case and compare with its ``result``.

    Returns:
        Nothing if they agree, else where and how they differ, or what is not modelled.
    """
    try:
        run = CaseRun(case)
        for step in case["steps"]:
            run.take(step)
            difference = _compare_last(case, case["result"], run)
            if difference:
                return difference
        return _compare_final(case["result"]["final"], run)
    except PktsimError as error:
        return str(error)


def compare_result(case: Mapping[str, Any], theirs: Mapping[str, Any], ours: CaseRun) -> str:
    """Compare a run that has taken all steps with a result of the format; nothing if they agree."""
    for index in range(len(case["steps"])):
        difference = _compare_nth(case, theirs, ours, index)
        if difference:
            return difference
    return _compare_final(theirs["final"], ours)


def _compare_last(case: Mapping[str, Any], theirs: Mapping[str, Any], ours: CaseRun) -> str:
    return _compare_nth(case, theirs, ours, len(ours.steps) - 1)


def _compare_nth(case: Mapping[str, Any], theirs: Mapping[str, Any], ours: CaseRun, index: int) -> str:
    difference = compare_step(theirs["steps"][index], ours.steps[index], _given_labels(case["steps"]))
    return f"step {index} ({describe_step(case['steps'][index])}): {difference}" if difference else ""


def describe_step(step: Mapping[str, Any]) -> str:
    """A step in a line."""
    for verb, body in step.items():
        if isinstance(body, dict):
            return f"{verb} {body.get('interface', '')} {body.get('text', '')}".strip()
        return f"{verb} {body}"[:60]
    return ""


def compare_step(theirs: Mapping[str, Any], ours: StepResult, given_labels: Set[int] = frozenset()) -> str:
    """The first difference of one step from a recorded one; nothing if they agree.

    Args:
        theirs: As the format has it.
        ours: What came of the same step here.
        given_labels: The IPv6 flow labels that the case's own packets have; all others are the node's.
    """
    difference = _compare_frames(theirs.get("emitted", []), ours.emitted, given_labels)
    if difference:
        return difference
    if theirs.get("error", "") != ours.error:
        return f"error {theirs.get('error') or 'none'} recorded, ours {ours.error or 'none'}"
    if theirs.get("delivered", 0) != ours.delivered:
        return f"{theirs.get('delivered', 0)} packets delivered in the recording, ours {ours.delivered}"
    if theirs.get("sockets", []) != ours.sockets:
        return f"sockets received {theirs.get('sockets')}, ours {ours.sockets}"
    difference = _compare_rules(theirs.get("rules", {}), ours.rules)
    if difference:
        return difference
    return _compare_entries(theirs.get("conntrack", []), ours.conntrack, "conntrack")


def mask_fields(frame: bytes, names: Iterable[str]) -> bytes:
    """Zero fields as the recordings do; checksums follow, except where one of them is itself named."""
    for name in sorted(names, key=lambda name: name.endswith("csum")):
        frame = write_fields(frame, {name: 0})
    return frame


def _compare_frames(
    theirs: Sequence[Mapping[str, Any]], ours: Sequence[tuple[str, bytes]], given_labels: Set[int]
) -> str:
    for index, (recorded, (interface, frame)) in enumerate(zip(theirs, ours, strict=False)):
        if recorded["interface"] != interface:
            return f"frame {index} leaves by {recorded['interface']} in the recording, ours by {interface}"
        wanted = bytes.fromhex(recorded["frame"])
        masked = _with_flow_labels(mask_fields(frame, recorded.get("random", [])), wanted, given_labels)
        if masked != wanted:
            return f"frame {index} on {interface} differs: recorded {wanted.hex()}, ours {masked.hex()}"
    if len(theirs) != len(ours):
        longer = theirs[len(ours)]["frame"] if len(theirs) > len(ours) else ours[len(theirs)][1].hex()
        more = summary(bytes.fromhex(longer))
        return f"{len(theirs)} frames emitted in the recording, ours {len(ours)}; the first that only one has: {more}"
    return ""


def _given_labels(steps: Sequence[Mapping[str, Any]]) -> Set[int]:
    labels = set()
    for step in steps:
        for verb, key, offset in (("receive", "frame", 14), ("send_local", "packet", 0)):
            if verb in step:
                head = bytes.fromhex(step[verb][key][2 * offset : 2 * offset + 8])
                if head and head[0] >> 4 == 6:
                    labels.add(int.from_bytes(head, "big") & _FLOW_LABEL)
    return labels


def _with_flow_labels(frame: bytes, wanted: bytes, given: Set[int]) -> bytes:
    """Our frame with the recorded flow labels where both have one of the node's own: a hash under a secret
    (``ip6_make_flowlabel``). Such a label may be quoted as well.
    """
    if frame[12:14] != b"\x86\xdd" or wanted[12:14] != b"\x86\xdd":
        return frame
    dissection = dissect(frame)
    writer = FieldWriter(dissection)
    for part in dissection.named("ipv6.version/tclass/flow"):
        ours, recorded = (int.from_bytes(each[part.start : part.end], "big") for each in (frame, wanted))
        labels = {ours & _FLOW_LABEL, recorded & _FLOW_LABEL}
        if 0 not in labels and not labels & given:
            writer.write(part.start, (ours & ~_FLOW_LABEL | recorded & _FLOW_LABEL).to_bytes(4, "big"))
    return bytes(writer.data)


def _compare_rules(theirs: Mapping[str, Sequence[int]], ours: Mapping[str, Sequence[int]]) -> str:
    for name in sorted(theirs.keys() | ours.keys()):
        recorded, counted = list(theirs.get(name, (0, 0))), list(ours.get(name, (0, 0)))
        if recorded != counted:
            return f"rule {name} counted {recorded} in the recording, ours {counted}"
    return ""


def _same_tuple(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    return (
        all(value is None or ours.get(key) == value for key, value in theirs.items()) and ours.keys() == theirs.keys()
    )


def _compare_entries(theirs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]], where: str) -> str:
    ours_left = list(ours)
    # those that may have any number take what the others leave
    for entry in sorted(theirs, key=lambda entry: None in (entry.get("orig") or entry["gone"]).values()):
        key = "gone" if "gone" in entry else "orig"
        match = next((one for one in ours_left if key in one and _same_tuple(entry[key], one[key])), None)
        if match is None:
            return f"{where}: only in the recording: {entry_text(entry)}; ours: {[entry_text(e) for e in ours]}"
        ours_left.remove(match)
        if key == "gone":
            continue
        for name in sorted((entry.keys() | match.keys()) - {"random", "orig"}):
            recorded, counted = entry.get(name), match.get(name)
            if name == "reply":
                if not _same_tuple(recorded or {}, counted or {}):
                    return f"{where} {entry_text(entry)}: reply {recorded} recorded, ours {counted}"
            elif name == "status" and (recorded is not None or name not in entry):
                if set(recorded or ()) != set(counted or ()):
                    return f"{where} {entry_text(entry)}: status {recorded} recorded, ours {counted}"
            elif recorded != counted and (recorded is not None or (counted and name not in entry)):
                return f"{where} {entry_text(entry)}: {name} {recorded} recorded, ours {counted}"
    if ours_left:
        return f"{where}: only ours: {entry_text(ours_left[0])}"
    return ""


def entry_text(entry: Mapping[str, Any]) -> str:
    """The original tuple of an entry, or of one that is gone."""
    tuple_ = entry.get("orig") or entry.get("gone") or {}
    ports = f":{tuple_['sport']} -> " if "sport" in tuple_ else " -> "
    end = f":{tuple_['dport']}" if "dport" in tuple_ else f" id {tuple_.get('id')}" if "id" in tuple_ else ""
    gone = "gone " if "gone" in entry else ""
    return f"{gone}{tuple_.get('proto')} {tuple_.get('src')}{ports}{tuple_.get('dst')}{end}"


def _compare_final(theirs: Mapping[str, Any], run: CaseRun) -> str:
    wanted = sorted(theirs.get("conntrack", []), key=lambda entry: tuple_sort_key(entry["orig"]))
    difference = _compare_entries(wanted, run.final_conntrack(), "final conntrack")
    if difference:
        return difference
    for key, family in (("iptables", Family.IPV4), ("ip6tables", Family.IPV6)):
        if key in theirs:
            difference = _compare_text(theirs[key], run.final_rules(family), key)
            if difference:
                return difference
    if "nft" in theirs:
        difference = _compare_text(_without_expiry(theirs["nft"]), _without_expiry(run.node.nft_list_ruleset()), "nft")
        if difference:
            return difference
    if "ipsets" in theirs:
        difference = _compare_text(theirs["ipsets"], "\n".join(run.final_sets()), "ipsets")
        if difference:
            return difference
    if "recent" in theirs:
        ours = {
            name: sorted(
                (ip_to_text(address), entry.ttl, entry.index, len(entry.stamps_ns))
                for address, entry in recent.entries.items()
            )
            for name, recent in run.node.datapath.context.recent.items()
        }
        recorded = {
            name: sorted((entry["src"], entry["ttl"], entry["oldest_pkt"], entry["stamps"]) for entry in entries)
            for name, entries in theirs["recent"].items()
        }
        if ours != recorded:
            return f"recent lists {recorded} recorded, ours {ours}"
    return ""


def _without_expiry(text: str) -> str:
    """nft's listing without what is left of timeouts: that depends on when it was asked for."""
    return re.sub(r" expires [0-9dhms]+", "", text)


def _lines(text: str) -> list[str]:
    """Tables in the order of their names: which of them the tool prints first depends on when each was loaded."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("*"):
            blocks.append([])
        if line and not line.startswith("#"):
            blocks[-1].append(line)
    return [line for block in sorted(blocks) for line in block]


def _compare_text(theirs: str, ours: str, what: str) -> str:
    recorded = _lines(theirs)
    made = _lines(ours)
    for number, (left, right) in enumerate(zip(recorded, made, strict=False), start=1):
        if left != right:
            return f"{what} line {number}: {left!r} recorded, ours {right!r}"
    if len(recorded) != len(made):
        return f"{what}: {len(recorded)} lines recorded, ours {len(made)}"
    return ""
