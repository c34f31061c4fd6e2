//! What the configuration accepts and what it says of the rest.
