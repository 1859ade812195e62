-- Renew the lease of an owned inbox.
-- KEYS  1 lease  2 stream
-- ARGV  1 lease in ms  2 clock offset in ms
-- Returns {now in ms, 1 if it is held or 0 if it is gone}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2])
if redis.call('HEXISTS', KEYS[1], 'g') == 0 or redis.call('PEXPIRE', KEYS[2], ARGV[1]) == 0 then return {now, 0} end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {now, 1}
