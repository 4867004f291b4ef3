//! Adapters.

/// What each adapter did.
#[derive(Debug, Clone, Default)]
pub struct PatchReport {
    /// One per adapter, in the order of the request.
    pub adapters: Vec<AdapterReport>,
}

/// What one adapter did.
#[derive(Debug, Clone)]
pub struct AdapterReport {
    /// The file's name without its extension.
    pub name: String,
    /// Modules that were changed, by canonical name.
    pub applied: Vec<String>,
    /// Names in the file without a counterpart in the base model.
    pub unmatched: Vec<String>,
    /// Modules whose factors do not fit: name, what was found, what was expected.
    pub wrong_shape: Vec<String>,
}
