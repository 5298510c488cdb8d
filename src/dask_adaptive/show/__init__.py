"""What a person looks at: command line, report, live view, notebook widget."""
