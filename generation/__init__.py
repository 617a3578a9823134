"""From a job to its images: `pipeline` has the steps, the other modules what they need."""
