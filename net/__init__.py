"""HTTP: one exchange (`transport`), when to send again (`retry`), which URLs may be fetched (`addresses`)."""
