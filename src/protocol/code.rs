//! The one table of close and error codes. To come: the whole table of the wire contract, section 5.
