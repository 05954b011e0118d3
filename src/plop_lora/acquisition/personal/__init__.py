"""Personal data and secrets in rows: what finds them, and where they stand. Values never leave."""

from plop_lora.acquisition.personal.scan import Detection, places_in

__all__ = ["Detection", "places_in"]
