package network

func churn() {}
