-- Stores a message for replicas that are disconnected, and publishes it to all others; neither if it cannot be stored.
--
-- KEYS 1  the stored messages: a stream
-- ARGV    1 the channel, 2 the message, 3 its field and 4 its text in the stream, 5 when it was sent, 6 how many are kept,
--         7 how long the last one is, in ms

redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[6], '*', ARGV[3], ARGV[4], 's', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
return redis.call('PUBLISH', ARGV[1], ARGV[2])
