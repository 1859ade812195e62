-- Release an inbox that was claimed by popping from it.
-- KEYS  1 claim
-- ARGV  1 claimant
-- Returns 1, or 0 if another claimant has it.
if redis.call('MGET', KEYS[1])[1] ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
