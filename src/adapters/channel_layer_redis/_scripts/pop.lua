-- Take messages from the head of a queue; signal another reader if more are left.
-- KEYS  1 queue  2 signal  3 unread  and for an inbox: 4 lease  5 claim (string: the reader of the inbox)
-- ARGV  1 count  2 expiry in ms  3 clock offset in ms  and for an inbox: 4 claimant  5 lease in ms
-- Returns {now in ms, expired, entry ...}, or {now, -1} if the inbox has an owner, or {now, -2, ms} if it is claimed.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
if KEYS[4] then
  if redis.call('HEXISTS', KEYS[4], 'g') == 1 then
    if redis.call('PTTL', KEYS[4]) >= 0 then return {now, -1} end
    redis.call('DEL', KEYS[4]) -- every lease ends; another program has written this one
  end
  local claimant = redis.call('MGET', KEYS[5])[1] -- GET would refuse a key of another type
  if claimant and claimant ~= ARGV[4] then
    local left = redis.call('PTTL', KEYS[5])
    if left >= 0 then return {now, -2, left} end -- else another program has written it
  end
  redis.call('SET', KEYS[5], ARGV[4], 'PX', ARGV[5])
end
-- Before any change: in a slot that is on its way to another node of a Cluster, a key that is gone cannot be asked for.
local length, left = redis.call('LLEN', KEYS[1]), redis.call('PTTL', KEYS[1])
local reply = {now, 0}
local oldest = now - tonumber(ARGV[2])
local wanted = tonumber(ARGV[1])
if wanted > 0 then redis.call('DEL', KEYS[3]) end -- the queue has a reader
while wanted > 0 and length > 0 do
  local entry = redis.call('LPOP', KEYS[1])
  length = length - 1
  if #entry < 8 or math.abs(struct.unpack('>d', entry)) > oldest then -- a shorter one is not ours: the caller counts it
    reply[#reply + 1] = entry
    wanted = wanted - 1
  else
    reply[2] = reply[2] + 1
  end
end
if length > 0 and left > 0 then
  local signals = redis.pcall('LLEN', KEYS[2])
  if signals ~= 1 then
    if signals ~= 0 then redis.call('DEL', KEYS[2]) end -- another program has written it
    redis.call('RPUSH', KEYS[2], '1')
    redis.call('PEXPIRE', KEYS[2], left)
  end
else
  redis.call('DEL', KEYS[2])
end
return reply
