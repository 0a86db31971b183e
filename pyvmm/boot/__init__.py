"""How a guest image becomes memory contents and registers. Returns data, applies nothing, knows no KVM."""
