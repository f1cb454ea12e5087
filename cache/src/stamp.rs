//! Stamps that say which files were verified.
