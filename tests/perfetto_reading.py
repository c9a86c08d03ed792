"""A strict reading of a Perfetto trace, that fails where the viewer's importer would drop or guess.

Independent of the writer: it knows the format alone. Packets are taken in the order of the file; interned names must be
known before they are used; events of a track must not go back in time; every slice ends, and ends as the innermost.
"""

from dataclasses import dataclass, field
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackEvent


@dataclass
class Slice:
    start_ns: int
    end_ns: int
    name: str
    depth: int
    facts: dict[str, Any]
    flows: list[int]


@dataclass
class Track:
    name: str
    description: str
    unit: str | None
    parent: int
    slices: list[Slice] = field(default_factory=list)
    instants: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    points: list[tuple[int, float]] = field(default_factory=list)
    _open: list[Slice] = field(default_factory=list)
    _last_ns: int | None = None


class Reading:
    """The tracks of a trace file by their paths from the root, e.g. "0001-x/ledger pass 0/phases"."""

    def __init__(self, data: bytes) -> None:
        self._by_uuid: dict[int, Track] = {}
        self._names: dict[str, dict[int, Any]] = {}
        self._cleared = False
        trace = Trace()
        trace.ParseFromString(data)
        for packet in trace.packet:
            self._read(packet)
        for track in self._by_uuid.values():
            assert not track._open, f"{track.name}: {len(track._open)} slices never end"
        self.tracks = {self.path(uuid): track for uuid, track in self._by_uuid.items()}
        assert len(self.tracks) == len(self._by_uuid), "two tracks have one path"

    def path(self, uuid: int) -> str:
        track = self._by_uuid[uuid]
        return (self.path(track.parent) + "/" if track.parent else "") + track.name

    def ending(self, end: str) -> list[Track]:
        """Tracks whose path ends so."""
        return [track for path, track in self.tracks.items() if path.endswith(end)]

    def _read(self, packet: TracePacket) -> None:
        if packet.HasField("track_descriptor"):
            made = packet.track_descriptor
            assert made.uuid and made.uuid not in self._by_uuid and made.name
            assert not made.parent_uuid or made.parent_uuid in self._by_uuid, "a track before its parent"
            unit = made.counter.unit_name if made.HasField("counter") else None
            self._by_uuid[made.uuid] = Track(made.name, made.description, unit, made.parent_uuid)
            return
        assert packet.trusted_packet_sequence_id
        if packet.sequence_flags & TracePacket.SEQ_INCREMENTAL_STATE_CLEARED:
            self._names, self._cleared = {}, True
        if packet.sequence_flags & TracePacket.SEQ_NEEDS_INCREMENTAL_STATE:
            assert self._cleared, "interned names before the state was cleared"
        for kind, text in (("event_names", "name"), ("debug_annotation_names", "name"),
                           ("debug_annotation_string_values", "str")):  # fmt: skip
            for entry in getattr(packet.interned_data, kind):
                known = self._names.setdefault(kind, {})
                assert entry.iid and entry.iid not in known
                known[entry.iid] = getattr(entry, text)
        if packet.HasField("track_event"):
            self._event(packet.timestamp, packet.track_event)

    def _event(self, t_ns: int, event: TrackEvent) -> None:
        track = self._by_uuid[event.track_uuid]
        assert t_ns > 0 and (track._last_ns is None or t_ns >= track._last_ns), f"{track.name} goes back in time"
        track._last_ns = t_ns
        if event.type == TrackEvent.TYPE_COUNTER:
            assert track.unit is not None and event.double_counter_value == event.double_counter_value
            track.points.append((t_ns, event.double_counter_value))
            return
        assert track.unit is None
        if event.type == TrackEvent.TYPE_SLICE_END:
            ended = track._open.pop()
            ended.end_ns = t_ns
            return
        name = self._names["event_names"][event.name_iid]
        keys = self._names.get("debug_annotation_names", {})
        facts = {keys[note.name_iid]: self._value(note) for note in event.debug_annotations}
        if event.type == TrackEvent.TYPE_INSTANT:
            track.instants.append((t_ns, name, facts))
            return
        assert event.type == TrackEvent.TYPE_SLICE_BEGIN
        begun = Slice(t_ns, -1, name, len(track._open), facts, list(event.flow_ids))
        track.slices.append(begun)
        track._open.append(begun)

    def _value(self, note: Any) -> Any:
        kind = note.WhichOneof("value")
        if kind == "string_value_iid":
            return self._names["debug_annotation_string_values"][note.string_value_iid].decode()
        return getattr(note, kind)
