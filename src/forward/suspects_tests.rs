//! Tests of suspects.
