"""Writes a Perfetto trace: tracks, slices, instants and counters as packets of its native protobuf format.

Tracks form a tree of plain tracks and not of processes and threads: the viewer keeps the order of plain ones only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos
from perfetto.trace_builder.proto_builder import TraceProtoBuilder

from perfsuite.report.trace_lanes import begins_and_ends, lanes

SEQUENCE = 1
Facts = Mapping[str, str | int | float]


def _nothing(index: int) -> list[Any]:
    return []


class TraceWriter:
    """A trace in the making. Times are int64 ns of one clock; the viewer counts from the earliest of them."""

    def __init__(self) -> None:
        self._builder = TraceProtoBuilder()
        self._children: dict[int, int] = {}
        self._names: dict[str, int] = {}
        self._texts: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._num_tracks = 0
        self._cleared = False

    def track(self, name: str, parent: int | None = None, description: str = "", unit: str | None = None) -> int:
        """A new track, below its elder siblings; its number. With a unit it holds a counter."""
        self._num_tracks += 1
        descriptor = self._builder.add_packet().track_descriptor
        descriptor.uuid = self._num_tracks
        descriptor.name = name
        descriptor.child_ordering = protos.TrackDescriptor.EXPLICIT
        descriptor.sibling_merge_behavior = protos.TrackDescriptor.SIBLING_MERGE_BEHAVIOR_NONE
        if description:
            descriptor.description = description
        if parent is not None:
            descriptor.parent_uuid = parent
            descriptor.sibling_order_rank = self._children.get(parent, 0)
            self._children[parent] = self._children.get(parent, 0) + 1
        if unit is not None:
            descriptor.counter.unit_name = unit
        return self._num_tracks

    def slices(
        self, name: str, parent: int, start_ns: np.ndarray, end_ns: np.ndarray, name_of: Callable[[int], str], *,
        nested: bool, description: str = "", facts_of: Callable[[int], list[Any]] = _nothing,
        flows_of: Callable[[int], Sequence[int]] = _nothing,
    ) -> None:  # fmt: skip
        """Slices on a track of this name, and on as many more beside it as keep them from overlapping.

        nested: a slice may be drawn within another one. name_of, facts_of (what facts() returned) and flows_of are
        asked by the index of the slice; a flow is an arrow between the slices that have its number. ValueError where a
        slice ends before it begins.
        """
        if (end_ns < start_ns).any():
            raise ValueError(f"{int((end_ns < start_ns).sum())} slices of {name} end before they begin")
        for number, lane in enumerate(lanes(start_ns, end_ns, nested)):
            track = self.track(name if number == 0 else f"{name}, overlap {number + 1}", parent, description)
            for t_ns, i, begins in begins_and_ends(start_ns, end_ns, lane):
                if begins:
                    facts = facts_of(i)  # these may add packets of their own, which must come first
                    packet = self._event(t_ns, track)
                    event = packet.track_event
                    event.type = protos.TrackEvent.TYPE_SLICE_BEGIN
                    event.name_iid = self._name(packet, name_of(i))
                    event.debug_annotations.extend(facts)
                    event.flow_ids.extend(flows_of(i))
                else:
                    self._event(t_ns, track).track_event.type = protos.TrackEvent.TYPE_SLICE_END

    def instant(self, track: int, t_ns: int, name: str, facts: Facts | None = None) -> None:
        """A mark without a length."""
        annotations = self.facts(facts or {})
        packet = self._event(t_ns, track)
        packet.track_event.type = protos.TrackEvent.TYPE_INSTANT
        packet.track_event.name_iid = self._name(packet, name)
        packet.track_event.debug_annotations.extend(annotations)

    def counter(self, track: int, t_ns: np.ndarray, values: np.ndarray) -> None:
        """Values of a counter, each from its time on. NaN (not read) leaves no point."""
        for t, value in zip(t_ns.tolist(), values.tolist(), strict=True):
            if value == value:
                event = self._event(t, track).track_event
                event.type = protos.TrackEvent.TYPE_COUNTER
                event.double_counter_value = value

    def facts(self, facts: Facts) -> list[Any]:
        """What the viewer shows of a slice when it is selected; may be used for many slices. Texts are stored once."""
        made = []
        for key, value in facts.items():
            note = protos.DebugAnnotation(name_iid=self._intern("debug_annotation_names", self._keys, key))
            if isinstance(value, str):
                note.string_value_iid = self._intern("debug_annotation_string_values", self._texts, value)
            elif isinstance(value, float):
                note.double_value = value
            else:
                note.int_value = value
            made.append(note)
        return made

    def serialize(self) -> bytes:
        """The file."""
        return self._builder.serialize()

    def _event(self, t_ns: int, track: int) -> Any:
        packet = self._packet()
        packet.timestamp = t_ns
        packet.track_event.track_uuid = track
        return packet

    def _packet(self) -> Any:
        packet = self._builder.add_packet()
        packet.trusted_packet_sequence_id = SEQUENCE
        flags = protos.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        if not self._cleared:  # a reader takes no interned name before a packet that says where the names begin
            flags |= protos.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
            self._cleared = True
        packet.sequence_flags = flags
        return packet

    def _name(self, packet: Any, name: str) -> int:
        number = self._names.get(name)
        if number is None:
            number = self._names[name] = len(self._names) + 1
            packet.interned_data.event_names.add(iid=number, name=name)
        return number

    def _intern(self, kind: str, known: dict[str, int], text: str) -> int:
        number = known.get(text)
        if number is None:
            number = known[text] = len(known) + 1
            added = getattr(self._packet().interned_data, kind)
            if kind == "debug_annotation_string_values":
                added.add(iid=number, str=text.encode())
            else:
                added.add(iid=number, name=text)
        return number
