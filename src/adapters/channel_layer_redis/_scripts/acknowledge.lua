-- Note that the owner of an inbox has dropped what it held before a flush.
-- KEYS  1 lease
-- ARGV  1 generation
if redis.call('HGET', KEYS[1], 'g') == ARGV[1] then redis.call('HSET', KEYS[1], 'f', ARGV[1]) end
return 1
