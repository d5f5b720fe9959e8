//! Every metric, declared once. Base units, no user, symbol or connection labels; handles are resolved once, at start.
//! To come.
