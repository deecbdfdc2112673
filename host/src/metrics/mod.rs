//! Counting what happens: a store for counts, a collector that fills it, and the export of a
//! host's figures. Knows no plugins.
