//! Which points are kept. A pure function of the policy, the points and the vault's clock.
