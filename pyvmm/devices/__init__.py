"""What the guest sees: one file per device, none of which knows KVM."""
