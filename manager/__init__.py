"""The Instance Manager: a control plane for fleets of browsers, proxies and model servers."""

__version__ = "0.1.0"
