-- Release the lease of an owned inbox for good, and remove the inbox.
-- KEYS  1 lease  2 stream
-- Returns how many direct messages waited in it.
local count = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do
  if string.sub(entry[2][2], 1, 1) == 'm' then count = count + 1 end
end
redis.call('DEL', KEYS[1], KEYS[2])
return count
