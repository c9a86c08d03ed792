"""Trains a workload to its target under MLPerf's rules of timing and records it.

    run          the passes of one `perfsuite run`, in order, each a process of its own; resumes what was cut off
    one_pass     the process of one pass
    train        init, warm-up, clock, blocks, evaluations, stop
    own_cost     what the instruments themselves cost, by blocks of steps with them on and off
    data_guard   no data is touched before the clock starts
    page_cache   data starts on storage, not in memory
"""
