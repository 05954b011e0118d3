"""Small real finetunes: one spec to one result, and the runners that go through many."""
