"""Which hardware counters to collect on which chip: metric sets, the planner, and the library that knows the chips.

None of it needs a GPU. What collects is perfsuite.instruments.counters.
"""
