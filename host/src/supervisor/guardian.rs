//! A small process in the child's group that ends the group when the host is gone.
