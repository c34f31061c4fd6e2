//! The life of the gateway: build, start, stop in order.
