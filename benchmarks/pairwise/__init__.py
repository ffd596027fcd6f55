"""Registration of two scans measured side by side: known truths, real pairs, peers, autoreg."""
