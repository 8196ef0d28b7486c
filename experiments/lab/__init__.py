"""The lab: a network that stays up while its user looks around in it, migrates the guest, and cuts links."""
