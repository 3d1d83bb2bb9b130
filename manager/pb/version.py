"""Generated from proto/ by `make proto`; never edited."""

PROTO_VERSION = "dcfdf66e3b3fc80ceda3b51949f0698cba2b9fdf76b4628cbcdf587855f916eb"
ACCEPTED = frozenset({"dcfdf66e3b3fc80ceda3b51949f0698cba2b9fdf76b4628cbcdf587855f916eb"})
