-- Take messages from the head of a queue; signal another reader if more are left.
-- KEYS  1 queue  2 signal  3 unread  and to take any: 4 taken (hash: reader -> number of its last pop that took
--       something, ms when, and what)  and for an inbox: 5 lease  6 claim (string: the reader of the inbox)
-- ARGV  1 count  2 expiry in ms  3 clock offset in ms  and to take any: 4 reader  5 number of this pop, above its last
--       6 "again" if it was sent before  and for an inbox: 7 claimant  8 lease in ms
-- Returns {now in ms, expired, entry ...}, or {now, -1} if the inbox has an owner, or {now, -2, ms} if it is claimed.
-- A pop with the number of one whose reply was lost returns what that one has taken, whatever its count.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
if KEYS[5] then
  if redis.call('HEXISTS', KEYS[5], 'g') == 1 then
    if redis.call('PTTL', KEYS[5]) >= 0 then return {now, -1} end
    redis.call('DEL', KEYS[5]) -- every lease ends; another program has written this one
  end
  local claimant = redis.call('MGET', KEYS[6])[1] -- GET would refuse a key of another type
  if claimant and claimant ~= ARGV[7] then
    local left = redis.call('PTTL', KEYS[6])
    if left >= 0 then return {now, -2, left} end -- else another program has written it
  end
  redis.call('SET', KEYS[6], ARGV[7], 'PX', ARGV[8])
end
-- Before any change: in a slot that is on its way to another node of a Cluster, a key that is gone cannot be asked for.
local length, left = redis.call('LLEN', KEYS[1]), redis.call('PTTL', KEYS[1])
local reply = {now, 0}
local oldest = now - tonumber(ARGV[2])
local wanted, number = tonumber(ARGV[1]), tonumber(ARGV[5])
if wanted > 0 then
  local record = redis.pcall('HGET', KEYS[4], ARGV[4])
  if type(record) == 'string' and #record > 16 then
    local last = struct.unpack('>d', record)
    if last >= number then
      local readable, entries = pcall(cmsgpack.unpack, string.sub(record, 17))
      if last == number and readable then
        for _, entry in ipairs(entries) do reply[#reply + 1] = entry end
      end
      wanted = 0 -- a later one has come first: no reader waits for the reply to this one
    end
  elseif type(record) == 'table' then
    redis.call('DEL', KEYS[4]) -- another program has written it
  end
  redis.call('DEL', KEYS[3]) -- the queue has a reader
end
local taken = {}
while wanted > 0 and length > 0 do
  local entry = redis.call('LPOP', KEYS[1])
  length = length - 1
  if #entry < 8 or math.abs(struct.unpack('>d', entry)) > oldest then -- a shorter one is not ours: the caller counts it
    taken[#taken + 1] = entry
    reply[#reply + 1] = entry
    wanted = wanted - 1
  else
    reply[2] = reply[2] + 1
  end
end
if #taken > 0 or wanted > 0 and ARGV[6] == 'again' then -- then the first try must not take anything when it comes
  if redis.call('HSET', KEYS[4], ARGV[4], struct.pack('>dd', number, now) .. cmsgpack.pack(taken)) == 1 then
    local records = redis.call('HGETALL', KEYS[4])
    for place = 2, #records, 2 do -- of readers that have gone
      if #records[place] < 16 or select(2, struct.unpack('>dd', records[place])) <= oldest then
        redis.call('HDEL', KEYS[4], records[place - 1])
      end
    end
  end
  redis.call('PEXPIRE', KEYS[4], ARGV[2])
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
