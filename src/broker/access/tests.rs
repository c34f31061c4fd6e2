//! Access as connections meet it.
