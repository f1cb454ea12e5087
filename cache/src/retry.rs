//! Retrying what is unavailable.
