//! Stands in for the package of this name, which builds a protoc from its source.

/// Name the compiler of the system's package.
pub fn protoc() -> std::path::PathBuf {
    "protoc".into()
}
