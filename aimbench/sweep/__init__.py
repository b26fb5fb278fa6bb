"""Many runs from one plan: trials chosen on validation, then the best with several seeds."""
