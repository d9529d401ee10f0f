"""Does an edit hold where the model is served?"""
