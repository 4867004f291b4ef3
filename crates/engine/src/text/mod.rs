//! From prompts to conditioning.
