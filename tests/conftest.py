"""What every test needs: one thread of arithmetic each, as several tests share the machine's cores."""

import os

# Before torch is imported, here or in a process that a test starts: two pools of spinning threads on two cores take
# many times as long as one.
os.environ["OMP_NUM_THREADS"] = "1"
