//! The demo: the whole main job on one machine, with its proof.
