"""Small finetunes: a trial turns one spec into one result, and runners execute many trials."""
