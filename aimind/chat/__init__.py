"""Using a model that is served: conversations, single answers, transcripts, sounds, images and vectors."""
