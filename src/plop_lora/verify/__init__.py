"""Equal-budget finetunes of rival placements: does the shortlist hold?"""
