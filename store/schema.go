package store

// The database, schema 1. Names in capitals vary; every record is
//
//	CHECKSUM SPACE JSON
//
// with CHECKSUM the CRC-32C of path, key and JSON in eight hexadecimal digits,
// so that a record can be read with strings(1) in an emergency and no damage to
// it goes unnoticed.
//
//	meta
//	    version         the schema's number in decimal, without a checksum
//	    floor           after a recovery: where a new site's events begin, 8 bytes big endian
//	sites
//	    SITE
//	        state
//	            applied         record.Applied
//	            generation      the highest generation ever applied, a number
//	            maintenance     record.Maintenance
//	        intents
//	            SERVICE         record.Intent
//	        addresses
//	            SERVICE         assignment: record.Address and when it was released
//	        images
//	            REF             record.Image
//	        jobs
//	            NAME            record.JobRecord
//	        secrets
//	            NAME            a string; also in secrets/SITE.json beside the database
//	        events              sequence: the last Seq given
//	            SEQ             record.Event; SEQ is 8 bytes, big endian
//	        history             which events speak of a service
//	            SERVICE 0 SEQ   the checksum of path and key in eight hexadecimal digits
//	quarantine
//	    N               quarantined: a record that could not be read, as it was

// schemaVersion is what this program writes. A file of a lower version is
// migrated at Open, see migrate.go.
const schemaVersion = 1

var (
	bucketMeta       = []byte("meta")
	bucketSites      = []byte("sites")
	bucketQuarantine = []byte("quarantine")

	keyVersion    = []byte("version")
	keyFloor      = []byte("floor")
	keyApplied    = []byte("applied")
	keyGeneration = []byte("generation")

	keyMaintenance = []byte("maintenance")
)

// The buckets of a site.
const (
	bucketState     = "state"
	bucketIntents   = "intents"
	bucketAddresses = "addresses"
	bucketImages    = "images"
	bucketJobs      = "jobs"
	bucketSecrets   = "secrets"
	bucketEvents    = "events"
	bucketHistory   = "history"
)

// siteBuckets are all of them. recordBuckets hold checksummed records.
var (
	siteBuckets = []string{
		bucketState, bucketIntents, bucketAddresses, bucketImages,
		bucketJobs, bucketSecrets, bucketEvents, bucketHistory,
	}
	recordBuckets = []string{
		bucketState, bucketIntents, bucketAddresses, bucketImages,
		bucketJobs, bucketSecrets, bucketEvents,
	}
)

// maxRecord bounds one record, so that a mistake elsewhere cannot fill the disk.
const maxRecord = 1 << 20
