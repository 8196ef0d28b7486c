"""The emulated network: switches, hosts, clients, links and the guest's vNICs (Mininet, netlink)."""
