//! Both against each other: see `simple`.
