"""The fault rig: a disk that fails (`disk`), what a power cut leaves of it (`powercut`), and who lives through that."""
