package openedx

// onDemandBelow is the memory (bytes) under which services that are seldom
// used are started when they are needed. A server sold as 4 GB reports more.
const onDemandBelow = 3 << 30

// OnDemandServices are the services that can be started by the first request
// or task and be stopped when nobody needs them.
func OnDemandServices() []string { return []string{cms, lmsWorker, cmsWorker} }

// OnDemandAt says whether a site with this memory (bytes) has them do so, as
// long as the site file does not decide.
func OnDemandAt(memory int64) bool { return memory < onDemandBelow }
