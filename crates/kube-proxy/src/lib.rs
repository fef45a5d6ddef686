//! Services to packet rules
