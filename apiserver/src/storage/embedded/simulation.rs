//! Power loss on a simulated disk (being written).
