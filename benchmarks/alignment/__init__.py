"""UniHPE's claim put to the test: which contrastive term, if any, lets image -> 3D learn from data of other kinds."""
