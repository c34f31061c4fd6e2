"""The laboratory of the interop tests and the benchmark: real processes, real sockets, and a way to say PASS or FAIL."""
